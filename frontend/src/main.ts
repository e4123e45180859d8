// Mounts the dashboard in the page.
import { mount } from "svelte";

import App from "./App.svelte";
import "./theme.css";

const target = document.getElementById("herd");
if (target) mount(App, { target });
