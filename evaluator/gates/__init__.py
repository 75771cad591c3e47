"""The dynamic gates: they execute a program's modules on probes before any training. Inside the sandbox only."""
