"""What runs beside requests: in each web worker, and in the background process."""
