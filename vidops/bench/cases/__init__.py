"""One file an operator, holding ``BENCHMARK``; found by its name."""
