"""What people see: tables, curves, maps and live views. View only; nothing below imports it."""
