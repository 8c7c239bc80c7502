"""SIGReg in the frameworks people already use: one module per host, imported only when asked for."""
