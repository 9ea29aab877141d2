"""Representations by name: how labels become targets and maps become cells."""
