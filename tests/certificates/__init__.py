"""Small certificates: accepted/, rejected/ and malformed/ hold one folder a case, named for what it shows; `make` writes them."""
