// Finds the pages of the dashboard: every file in ../pages is one page and exports its title, order and icon.

import type { Component } from "svelte";

/** `icon` is an SVG path on a 24 x 24 grid; pages are listed by ascending `order`. */
export interface PageDescription {
  title: string;
  order: number;
  icon: string;
}

export interface DashboardPage extends PageDescription {
  name: string;
  component: Component;
}

const modules = import.meta.glob<{ description: PageDescription; default: Component }>("../pages/*.svelte", {
  eager: true,
});

export const PAGES: DashboardPage[] = Object.entries(modules)
  .map(([file, module]) => ({
    ...module.description,
    name: file.replace("../pages/", "").replace(".svelte", ""),
    component: module.default,
  }))
  .sort((a, b) => a.order - b.order);

/** The page of that name; the first page where there is none. */
export function pageNamed(name: string): DashboardPage {
  return (PAGES.find((page) => page.name === name) ?? PAGES[0]) as DashboardPage;
}
