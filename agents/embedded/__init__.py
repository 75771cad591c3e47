"""The embedded model: a seeded program grammar that answers the agents' prompts without a language model."""
