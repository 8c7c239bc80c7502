"""Epps-Pulley, fast: kernels on tensors.  They know no Module and no process group of their own."""
