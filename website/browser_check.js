// What a reader of this page would see wrong, one line each. Code blocks may hold dollars and TeX, and inline code
// dollars; running text, headings and tables may not.
(() => {
  const found = []

  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    const node = walker.currentNode
    if (node.parentElement.closest("pre, script, style, noscript, .katex")) continue
    const dollar = node.parentElement.closest("code") ? null : node.textContent.match(/\$.*/)
    const command = node.textContent.match(/\\(?:[a-zA-Z]{2,}|[[\](){}]).*/)
    for (const raw of [dollar, command]) if (raw) found.push("raw formula: " + raw[0].slice(0, 60))
  }

  for (const formula of document.querySelectorAll(".arithmatex"))
    if (!formula.querySelector(".katex-html"))
      found.push("formula not rendered: " + formula.textContent.slice(0, 60))

  for (const image of document.images)
    if (image.getClientRects().length && !image.naturalWidth) found.push("picture does not load: " + image.src)

  const { scrollWidth, clientWidth } = document.scrollingElement
  if (scrollWidth > clientWidth) found.push(`wider than the screen: ${scrollWidth} > ${clientWidth}`)
  if (!document.querySelector("h1")) found.push("no heading")
  return found
})()
