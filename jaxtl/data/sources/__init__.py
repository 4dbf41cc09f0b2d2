"""One file a kind of source: folder, csv, npz, TFDS."""
