"""What is written about photos: beside them, in lists, and inside the photo files."""
