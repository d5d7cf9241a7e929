"""What the commands of both sides share: command lines, tables, progress, plots, privileges, processes."""
