"""Pages that show what happened: one self-contained HTML file, which opens without a network."""
