"""What is different since the last run, dealt with before anything else is journalled."""
