// Renders what pymdownx.arithmatex (generic) marks as a formula. A formula that KaTeX refuses stays as it is and is an
// error in the console, which the browser test looks for. Displayed formulas side by side (\qquad) that are wider than
// their column stand below each other instead.
document.querySelectorAll(".arithmatex").forEach((element) => {
  const text = element.textContent.trim()
  const formula = text.slice(2, -2)
  const display = text.startsWith("\\[")
  const show = (tex) => katex.render(tex, element, { displayMode: display, strict: "error", throwOnError: true })
  try {
    show(formula)
    const wide = display && element.scrollWidth > element.clientWidth
    if (wide && formula.includes("\\qquad") && !formula.includes("\\begin"))
      show(`\\begin{gathered} ${formula.replaceAll("\\qquad", "\\\\")} \\end{gathered}`)
  } catch (error) {
    console.error(error.message)
  }
})
