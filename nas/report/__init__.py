"""A front as text, picture and page."""
