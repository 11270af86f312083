// Renders what pymdownx.arithmatex (generic) marks as a formula. A formula that KaTeX refuses is an error in the
// console, which the browser test looks for.
document.querySelectorAll(".arithmatex").forEach((element) => {
  const text = element.textContent.trim()
  const display = text.startsWith("\\[")
  katex.render(text.slice(2, -2), element, { displayMode: display, strict: "error", throwOnError: true })
})
