// Short functions for the elements of the page.

export const $ = (id) => document.getElementById(id);

export const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;

export const choose = (name, value) => {
  document.querySelector(`input[name="${name}"][value="${value}"]`).checked = true;
};
