"""The recipes, one file each; `nas.training.recipe` finds them."""
