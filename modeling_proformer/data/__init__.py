"""From tables to assays: files and rows, constructs, groups of related sequences, splits, and the collator."""
