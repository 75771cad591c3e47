"""What others have published on building blocks of networks: entries in our own words, found by symptom or by word."""
