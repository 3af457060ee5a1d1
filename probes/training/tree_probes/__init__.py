"""Probes of the words of sentences that give back their trees, and trees found without any labels."""
