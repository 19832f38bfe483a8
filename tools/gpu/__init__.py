"""One command that proves the course on a GPU, or says what it could not prove, and a report of it to keep."""
