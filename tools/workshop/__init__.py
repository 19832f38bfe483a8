"""One server for a classroom."""
