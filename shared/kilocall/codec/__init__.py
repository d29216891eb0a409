"""Motion vectors to bits and back: range coder, frozen tables, prediction."""
