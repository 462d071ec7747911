"""Model families: one folder each; they cannot see each other."""
