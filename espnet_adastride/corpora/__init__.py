"""Speech on disk: archives of features, and pretrained encoders that make them."""
