"""Load testing: packets offered at a rate, and a report on how well the rate was kept."""
