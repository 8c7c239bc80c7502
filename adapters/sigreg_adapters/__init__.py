"""SIGReg in the frameworks people already use: a module for each, loaded only when it is imported by name."""
