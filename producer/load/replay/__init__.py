"""zbufd replay: sends capture files to readers at a chosen rate, and reports on it."""
