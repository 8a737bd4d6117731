"""Will a model fit? Its size, what earlier loads taught, and the room there is, in numbers. Pure."""
