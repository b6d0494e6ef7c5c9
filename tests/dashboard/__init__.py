"""Tests of the page that a node serves."""
