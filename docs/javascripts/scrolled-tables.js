// A table wider than the page is scrolled by arrow keys, as the theme's blocks of code are.
document$.subscribe(() => {
  document.querySelectorAll(".md-typeset__scrollwrap").forEach((box) => (box.tabIndex = 0));
});
