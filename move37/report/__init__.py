"""Reports: what people look at. All of it can be rebuilt from the store at any time."""
