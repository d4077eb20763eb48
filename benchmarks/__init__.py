"""What is measured, by commands that anybody can run again."""
