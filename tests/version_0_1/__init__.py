"""Data that version 0.1 left, and that every newer version takes up."""
