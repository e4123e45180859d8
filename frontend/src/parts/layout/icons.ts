// Holds the icons that are not a page's own, as SVG paths on a 24 x 24 grid.

const circle = (x: number, y: number, r: number) =>
  `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`;

export const ICONS = {
  herd:
    circle(5.5, 9, 2.4) +
    circle(12, 6, 2.4) +
    circle(18.5, 9, 2.4) +
    "M12 11c4.2 0 6.7 2.9 6.7 5.4 0 1.8-1.4 2.8-3.1 2.8-1.4 0-2.2-.6-3.6-.6" +
    "s-2.2.6-3.6.6c-1.7 0-3.1-1-3.1-2.8C5.3 13.9 7.8 11 12 11z",
  search: "M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13zM15.5 15.5L20 20",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  check: "M5 12.5l4.5 4.5L19 7",
  close: "M6 6l12 12M18 6L6 18",
};
