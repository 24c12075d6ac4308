"""A plan at work: the machine code of the kernels, and the memory and threads of a call."""
