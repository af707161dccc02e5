"""Models and boxes in other formats."""
