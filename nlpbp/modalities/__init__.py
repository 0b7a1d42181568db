"""What differs between texts, documents and images: encoding, batches, saving."""
