"""Looking at a plan: its values, its time, its layers, its cost, and the machine's limit. Nothing here is needed to run one."""
