"""What may be wrong with a set of images: duplicates, poor images, wrong labels."""
