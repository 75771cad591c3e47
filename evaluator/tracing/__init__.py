"""The executed levels of program identity: L2, the operation trace, and L3, the function. Inside the sandbox only."""
