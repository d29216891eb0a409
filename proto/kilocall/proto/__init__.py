"""Wire and file formats: bytes in, bytes out, and a reason for every refusal."""
