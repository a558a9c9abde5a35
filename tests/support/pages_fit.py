"""Scripts that find what overlaps or sticks out of a page."""

OVERLAPS = """
(() => {
  const shown = e => {
    const r = e.getBoundingClientRect();
    return r.width > 0 && r.height > 0 && e.checkVisibility({contentVisibilityAuto: true});
  };
  const leaf = 'h1, h2, h3, p, dt, dd, li, img, figcaption, pre, summary, table, svg';
  const all = [...document.querySelectorAll(leaf)].filter(shown);
  const found = [];
  for (let i = 0; i < all.length; i++) for (let j = i + 1; j < all.length; j++) {
    if (all[i].contains(all[j]) || all[j].contains(all[i])) continue;
    const a = all[i].getBoundingClientRect(), b = all[j].getBoundingClientRect();
    const boxed = e => e.closest('.scroll');
    if (boxed(all[i]) || boxed(all[j])) continue;
    if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
        Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1)
      found.push(all[i].outerHTML.slice(0, 90) + ' | ' + all[j].outerHTML.slice(0, 90));
  }
  return found;
})()
"""

STICKING_OUT = """
(() => {
  const found = [];
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) found.push('the page scrolls sideways');
  for (const e of document.querySelectorAll('body *')) {
    if (e.closest('.scroll') && !e.matches('.scroll')) continue;
    const r = e.getBoundingClientRect();
    if (r.width && (r.right > width + 1 || r.left < -1)) found.push(e.outerHTML.slice(0, 90));
  }
  return found;
})()
"""
