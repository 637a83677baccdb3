"""worldsim: action-conditioned world models that play as Gymnasium environments."""
