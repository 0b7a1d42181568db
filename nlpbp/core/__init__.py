"""The practices themselves: plain functions over torch objects, usable in any loop."""
