"""Load testing: packets at a rate, and how it was kept."""
