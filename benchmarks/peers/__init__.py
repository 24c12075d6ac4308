"""The engines beside which a packed file is measured, one a module."""
