"""What goes where: measure, plan, place."""
