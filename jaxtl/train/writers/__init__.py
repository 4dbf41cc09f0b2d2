"""Where lines, pictures and histograms of a run go besides metrics.jsonl: one file, one program that shows them."""
