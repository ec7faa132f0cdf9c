"""What makes the embedded data and host: the Almanac, its training, and smaller ones for tests."""
