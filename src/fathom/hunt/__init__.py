"""The hunt: searches that start from what attacks and proofs have found. They make it simpler, or find how far it reaches."""
